"""Grading of generations: extract the final answer and compare it with the reference, by kind of answer.

    from promptstage.grading import grade

    grade("number", "He sold 48/2 = 24 clips.\\n#### 24", "24").correct

The library needs neither torch nor Lightning nor transformers.
"""

from promptstage.grading.grader import find_answer as find_answer
from promptstage.grading.grader import grade as grade
from promptstage.grading.grader import harness_verdicts as harness_verdicts
from promptstage.grading.grader import reference_problem as reference_problem
from promptstage.grading.grades import Grade as Grade
