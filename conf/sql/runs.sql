-- What the jobs did: one row a run, as it ended, or as far as it was last known where it has not ended. `counts` are rows
-- by outcome, `seconds` by stage; of a run that asked no model the columns about one are null. Bytes read are texts and
-- pictures, or vectors that were indexed; bytes written are vectors, or an index's files.
CREATE OR REPLACE VIEW {schema}.runs AS
SELECT run.*,
  run.seconds['total'] AS wall_seconds,
  run.metrics['model_seconds'] AS model_seconds,
  CAST(run.metrics['tokens'] AS BIGINT) AS tokens,
  run.metrics['tokens_per_second'] AS tokens_per_second,
  run.metrics['batch_fill'] AS batch_fill,
  run.metrics['model_busy'] AS model_busy,
  CAST(run.metrics['model_loads'] AS INT) AS model_loads,
  CAST(run.metrics['bytes_read'] AS BIGINT) AS bytes_read,
  CAST(run.metrics['bytes_written'] AS BIGINT) AS bytes_written,
  run.metrics['cost'] AS cost
FROM (SELECT max_by(struct(*), {newest_event}) AS run FROM {schema}.run_events GROUP BY run_id)
