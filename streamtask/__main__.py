"""`python -m streamtask`: the command line, for where the program `streamtask` is not on PATH."""

from streamtask.cli import main

if __name__ == "__main__":
    main()
