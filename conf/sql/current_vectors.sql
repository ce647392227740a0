-- The vectors analysts see. The scalar subquery lets Delta read only the released model's partition; a join would read
-- every model's files.
CREATE OR REPLACE VIEW {schema}.current_vectors
COMMENT 'One row for each row of the source that has a vector of the released model. Vectors have length 1.'
AS SELECT id, vector_id, embedding, model_id, content_hash, run_id, embedded_at
FROM {schema}.vectors
WHERE status = 'ok'
  AND model_id = (SELECT max_by(model_id, release_id) FROM {schema}.releases)
