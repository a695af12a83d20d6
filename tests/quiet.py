"""A log for methods under test: it keeps what it is told in memory."""

import copy


class Quiet:
    """Keeps what is said, names of curves, grids, tables and the last snapshot; `phases` are the logs of its parts."""

    def __init__(self):
        self.snapshot, self.curves, self.grids, self.tables, self.phases, self.told = None, [], [], {}, {}, []

    def say(self, text):
        self.told.append(text)

    def curve(self, name, value, step):
        self.curves.append(name)

    def grid(self, name, images, step):
        self.grids.append((name, step, images))

    def table(self, name, rows):
        self.tables[name] = rows

    def part(self, name):
        return self.phases.setdefault(name, Quiet())

    def save(self, state):
        self.snapshot = copy.deepcopy(state)

    def restored(self):
        return None
