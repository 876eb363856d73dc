"""Common first names, for renaming people in a question without changing its meaning.

Names that are also words, months, places or units (Mark, April, Jordan, Joule) are excluded, and so are names
of both women and men, since pronouns do not change.
"""

_WOMEN = """
    Alice Alicia Amanda Amy Angela Anna Barbara Becky Brenda Carla Carol Catherine Cindy Clara Claire
    Deborah Debbie Diana Donna Dorothy Elena Elizabeth Ella Emily Emma Eva Fae Helen Jane Janet Jenny
    Jennifer Jessica Julia Julie Karen Kate Kathy Katie Kelly Laura Lauren Linda Lisa Lucy Lydia Maria
    Marie Martha Mary Megan Melissa Michelle Monica Nancy Natalia Natalie Nicole Nina Olivia Patricia
    Paula Polly Rachel Rebecca Sally Samantha Sandra Sara Sarah Sharon Sheila Sophia Sophie Stella
    Stephanie Susan Tanya Teresa Tina Valerie Vanessa Wendy
"""
_MEN = """
    Adam Alan Andrew Anthony Ben Benjamin Bob Bobby Brad Brandon Brian Carlos Daniel Danny Dave David
    Dennis Derek Donald Edward Eric Ethan Fred Gary George Greg Gregory Harold Harry Henry Jake James
    Jason Jeff Jeremy Jerry Jim Jimmy Joe John Johnny Jonathan Jose Joseph Joshua Juan Justin Keith Ken
    Kenneth Kevin Kyle Larry Liam Luke Marco Mario Martin Marvin Matthew Michael Mike Mohamed Nathan
    Nicholas Noah Oliver Oscar Patrick Paul Peter Phil Philip Rafael Ralph Raymond Rex Richard Robert
    Roger Ronald Ryan Samuel Scott Sean Simon Stephen Steve Steven Ted Thomas Tim Timothy Todd Tom Tommy
    Tony Victor Walter William Zach
"""
WOMEN, MEN = tuple(_WOMEN.split()), tuple(_MEN.split())
