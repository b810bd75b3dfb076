"""The same work done by what users would pick instead: Quack, xorq, PostgreSQL.

- `environments` makes a virtual environment for each peer, from the pinned versions in `requirements/`;
- `quack`, `xorq`, `postgres` are their drivers: how each is served and what a client of it does, as its own
  documentation shows. They run in the peer's environment;
- `agent` is what drivers share: being a server or a process of clients, told what to do by the command line;
- `driven` starts them from here, `contenders` side by side with Ducktower, and `versus` has both do the same in turns;
- `writes`, `queries`, `bulk`, `growth` and `cost` say what is compared, and what is wanted.

Must never favour anybody: every client is timed by `benchmarks.clocked`, and each peer gets the fastest of its
documented ways.
"""
