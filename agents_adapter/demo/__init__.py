"""The demo, `journal demo`: agents train on real bars, their training is killed, and nothing is lost.

market    a small market over EURUSD hourly bars
learners  three agents that learn with numpy
train     the training script, that the demo kills
story     the demo itself: what is done, in order, and told
proof     are the two journals equal, bit by bit?
"""
