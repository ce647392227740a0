CREATE OR REPLACE VIEW {schema}.vector_lineage
COMMENT 'One row for each row of table vectors: model, run and version of the source that made it.'
AS SELECT v.vector_id, v.id, v.status, v.model_id, r.model_name, r.model_version,
       r.source_table, r.source_version, v.run_id, r.mlflow_run_id, v.embedded_at
FROM {schema}.vectors v
LEFT JOIN {schema}.runs r ON v.run_id = r.run_id
