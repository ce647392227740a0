"""What spark-submit runs: `gme-lake` with the words that follow this file; the packages come by --py-files."""

import sys

from jobs.driver.cli import main

main(sys.argv[1:])
