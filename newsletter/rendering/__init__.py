"""Turns a step of a sequence and the facts of one reader into a complete message.

    facts        what a letter is told, and what comes out
    sandbox      the only place where an operator's Jinja runs
    templates    the shipped templates, and the operator's in their stead
    markdown     an operator's Markdown with Jinja holes, as HTML
    text         the same, as plain text
    plates       one rendered letter, ready for the next reader's links
    typesetting  revision + step + facts -> subject, HTML, text
    message      subject, HTML, text + headers -> the bytes that travel
"""
