"""The demo, `journal demo`: agents train on real bars, their training is killed, and nothing is lost.

Its parts, in the order of reading:

    market    a small market over EURUSD hourly bars
    learners  three agents that learn with numpy
    train     the training script, which the demo kills
    attempt   that script as a process, followed and stopped
    proof     are two journals equal, bit by bit?
    story     what is done and told, from the first training to the verdict
"""
