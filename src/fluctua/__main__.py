"""`python -m fluctua`: the command line."""

from fluctua.lab.cli import main

if __name__ == "__main__":
    main()
