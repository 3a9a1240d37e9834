"""Turns a step of a sequence and the facts of one reader into a complete message.

- `facts`: what a letter is told, and what comes out
- `sandbox`: the only place where Jinja that somebody else wrote is run
- `templates`: the shipped templates, and the operator's in their stead
- `markdown`, `text`: an operator's Markdown with Jinja holes, as HTML and as plain text
- `wording`: a step's own words, compiled once
- `help_lines`: how a help line is printed
- `plates`: one rendered letter, ready for the next reader's links
- `imagined`, `proofreading`: what publishing tries a step on, and what it looks for
- `typesetting`: revision + step + facts: subject, HTML, text
- `message`: subject, HTML, text + headers: the bytes that travel
"""
