-- The vectors analysts see: those of the newest release's model. The scalar subquery lets Delta read only that
-- model's partition; a join would read every model's files.
CREATE OR REPLACE VIEW {schema}.current_vectors AS
SELECT id, vector_id, embedding, model_id, content_hash, run_id, embedded_at
FROM {schema}.vectors
WHERE status = 'ok'
  AND model_id = (SELECT max_by(model_id, release_id) FROM {schema}.releases)
