"""Where ids and their vectors still stand, in the files of a lake and beside it."""
