-- The cosine of two vectors of unit length, as the searches score.
CREATE OR REPLACE FUNCTION {schema}.similarity({arguments_of_similarity})
RETURNS DOUBLE
COMMENT {comment_of_similarity}
RETURN CAST({inner_product} AS DOUBLE)
