-- Exact nearest neighbours of a unit vector among the released vectors, in plain SQL. score is the inner product, which
-- is the cosine because vectors have unit length.
CREATE OR REPLACE FUNCTION {schema}.knn({arguments_of_knn})
RETURNS TABLE (rank INT, id STRING, vector_id BIGINT, score DOUBLE)
COMMENT {comment_of_knn}
RETURN
  SELECT rank, id, vector_id, score
  FROM (
    SELECT CAST(row_number() OVER (ORDER BY score DESC, vector_id) AS INT) AS rank, id, vector_id, score
    FROM (
      SELECT id, vector_id, CAST(IF(query IS NULL, raise_error('knn: the query is NULL'), {inner_product}) AS DOUBLE) AS score
      FROM {schema}.current_vectors
    )
  )
  WHERE rank <= k
