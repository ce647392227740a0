-- What the jobs did, as it ended, or as far as it was last known where it has not. Of a run that asked no model the columns
-- about one are null. Figures are a struct of their own type, which is how each gets its comment beside those of run_events.
CREATE OR REPLACE VIEW {schema}.runs
COMMENT 'One row for each run of a command that writes into the lake, as it ended or was last heard of.'
AS SELECT run.*, figures.*
FROM (
  SELECT run, CAST(struct(
      run.seconds['total'], run.metrics['model_seconds'], run.metrics['tokens'], run.metrics['tokens_per_second'],
      run.metrics['batch_fill'], run.metrics['model_busy'], run.metrics['model_loads'], run.metrics['bytes_read'],
      run.metrics['bytes_written'], run.metrics['cost']
    ) AS STRUCT<
      wall_seconds: DOUBLE COMMENT 'seconds from begin to end',
      model_seconds: DOUBLE COMMENT 'seconds in which models worked, of all of them together',
      tokens: BIGINT COMMENT 'tokens that models saw',
      tokens_per_second: DOUBLE COMMENT 'tokens per second of one model',
      batch_fill: DOUBLE COMMENT 'share of the token budgets of model batches that was used, 0 to 1',
      model_busy: DOUBLE COMMENT 'share of the wall seconds of embedding in which a model worked, 0 to 1',
      model_loads: INT COMMENT 'models that were loaded',
      bytes_read: BIGINT COMMENT 'bytes of texts and pictures, or of vectors that were indexed',
      bytes_written: BIGINT COMMENT 'bytes of vectors as floats, or of files of an index',
      cost: DOUBLE COMMENT 'cost of model_seconds at plan.price_per_hour, in its currency'
    >) AS figures
  FROM (SELECT max_by(struct(*), {newest_event}) AS run FROM {schema}.run_events GROUP BY run_id)
)
