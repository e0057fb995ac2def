"""How fast is the log on this disk, beside what the system can do at best? For `journal bench`, and benchmarks/.

rounds    contenders, measured in turns; ratios of one round
levels    the log at each level of safety, and its limits
machine   what the figures depend on
"""
