"""SQL for analysts: searches kept open in the driver, the service that tasks ask, and the functions of a session."""
