"""The supervisor: keeps N worker processes running, and hands back at once what a dead one held.

    python -P -S .../supervisor/__main__.py '{"child": ["python", "-m", "..."], "processes": 2, "slots": 100}'

It stands between a command and its worker for as short as one can, and costs as little memory as a Python process can:
it imports the standard library only, and -S spares it the look at what is installed. (A command line that needs no
click has it start in the process of the command, which has looked already: `cli.quick`.) What else there is of
streamtask comes in when a child has died and its entries have to go back. It handles no events and opens no connection
before that. (`dataclasses`, `typing` and `tempfile` alone would add a quarter to its own memory.)

1. A child that dies is seen by its death, not by silence: SIGCHLD, then its whole process group is killed, then it is
   reaped, then its entries go back to their groups, while a replacement is already starting.
2. SIGTERM and SIGINT ask the children to drain; a second one, or SIGQUIT, kills them. SIGHUP replaces them one by one.
3. A child that ends with 0 is finished, with 2 its configuration is wrong; anything else is restarted.
4. A child that has more memory than it may have is replaced as by SIGHUP: its successor works before it is told to end.
"""
