"""What makes the generated parts of the site, from the registries and docstrings of the packages.

write.py         all generated pages and parts, written before Sphinx reads anything
tasks.py         a page for each task; their list
algorithms.py    the list of algorithms, and what each says of itself
rewards.py       the rewards that have a name
arguments.py     the environment's arguments
commands.py      the command line
episodes.py      episodes of the embedded models, as text
docstrings.py    a docstring as Markdown
api.py           a docstring as reStructuredText, for autodoc
mathml.py        formulas without a script from elsewhere
architecture.py  docs/images/architecture.svg, from the imports
"""
