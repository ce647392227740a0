-- Who may read a lake and who may write it: a template for Unity Catalog. NOT RUN HERE: there is no Unity Catalog where the
-- tests run, no command reads this file, and publishing a lake (conf/sql) grants nothing. Put the names of your catalog,
-- schema (lake.schema) and groups in place of main, gme, `gme-jobs`, `gme-operators` and `analysts`, and run it once as the
-- owner of the schema, after the first command has made the lake's views; again for views that come later.
--
-- Without a catalog that checks grants (Spark's own, Hive's metastore without authorization) whoever can read the files of
-- lake.root can read all of it, and whoever can write them can change it: there permissions of the storage are what counts.

-- Commands: the one principal that writes. It makes tables, views (part of CREATE TABLE) and functions, and as their owner
-- it is the only one that changes them.
GRANT USE CATALOG ON CATALOG main TO `gme-jobs`;
GRANT USE SCHEMA, CREATE TABLE, CREATE FUNCTION, SELECT, MODIFY, EXECUTE ON SCHEMA main.gme TO `gme-jobs`;

-- Operators: read everything, change nothing. Settings and errors of runs (run_events) may quote ids and paths.
GRANT USE CATALOG ON CATALOG main TO `gme-operators`;
GRANT USE SCHEMA, SELECT, EXECUTE ON SCHEMA main.gme TO `gme-operators`;

-- Analysts: views and functions alone. A view reads its tables with the rights of its owner, so that they need none on
-- vectors, releases, indexes and run_events themselves.
GRANT USE CATALOG ON CATALOG main TO analysts;
GRANT USE SCHEMA ON SCHEMA main.gme TO analysts;
GRANT SELECT ON TABLE main.gme.current_vectors TO analysts;
GRANT SELECT ON TABLE main.gme.coverage TO analysts;
GRANT SELECT ON TABLE main.gme.rejected_rows TO analysts;
GRANT SELECT ON TABLE main.gme.model_history TO analysts;
GRANT SELECT ON TABLE main.gme.vector_lineage TO analysts;
GRANT SELECT ON TABLE main.gme.index_health TO analysts;
GRANT SELECT ON TABLE main.gme.runs TO analysts;
GRANT SELECT ON TABLE main.gme.functions TO analysts;
GRANT EXECUTE ON FUNCTION main.gme.knn TO analysts;
GRANT EXECUTE ON FUNCTION main.gme.similarity TO analysts;
-- Each source's view, by its own name:
-- GRANT SELECT ON TABLE main.gme.products_with_vectors TO analysts;

-- Functions that search through an index are the session's own: they read releases and indexes, and the index's files under
-- lake.root, as whoever calls them. Only where analysts use those:
-- GRANT SELECT ON TABLE main.gme.releases TO analysts;
-- GRANT SELECT ON TABLE main.gme.indexes TO analysts;
-- GRANT READ FILES ON EXTERNAL LOCATION gme_lake TO analysts;
