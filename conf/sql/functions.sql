-- What may be called in SQL. Those without a schema are functions of a session that opened the lake.
CREATE OR REPLACE VIEW {schema}.functions (
  name COMMENT 'as it is called',
  arguments COMMENT 'in order, with type and default; each may be named: k => 5',
  gives COMMENT 'its rows or its value',
  example COMMENT 'a statement that calls it'
)
COMMENT 'One row for each function of the lake that SQL may call. DESCRIBE FUNCTION EXTENDED says more.'
AS SELECT col1, col2, col3, col4
FROM VALUES {functions}
