-- What the jobs did: one row a run, as it ended, or as it began where it has not ended or was killed.
CREATE OR REPLACE VIEW {schema}.runs AS
SELECT run.*
FROM (SELECT max_by(struct(*), ended_at IS NOT NULL) AS run FROM {schema}.run_events GROUP BY run_id)
