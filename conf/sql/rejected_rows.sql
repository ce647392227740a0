-- Source rows of the released model that have no vector, and why.
CREATE OR REPLACE VIEW {schema}.rejected_rows AS
SELECT id, status, error, model_id, run_id, embedded_at
FROM {schema}.vectors
WHERE status <> 'ok'
  AND model_id = (SELECT max_by(model_id, release_id) FROM {schema}.releases)
