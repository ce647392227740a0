CREATE OR REPLACE VIEW {schema}.rejected_rows
COMMENT 'One row for each row of the source that has no vector of the released model, and why.'
AS SELECT id, status, error, model_id, run_id, embedded_at
FROM {schema}.vectors
WHERE status <> 'ok'
  AND model_id = (SELECT max_by(model_id, release_id) FROM {schema}.releases)
