"""Exit codes of the commands."""

DONE, FAILED, BAD_CONFIGURATION, NOT_CONVERGED, STOPPED = 0, 1, 2, 3, 75

EXIT_CODES = "exit codes: 0 done; 1 failed; 2 bad configuration; 3 not converged (samples kept, marked); 75 stopped, call again"
