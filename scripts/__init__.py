"""Thin commands that run everything; nothing imports them but their tests."""
