"""`python -m anyvisor` is the command `anyvisor`."""

from anyvisor.cli import main

if __name__ == "__main__":
    main()
