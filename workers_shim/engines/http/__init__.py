"""LLaVA's and FastChat's HTTP workers as an engine: what they are asked, and what becomes of their answers.

The controller's bridges use it as well. Only `old_worker` speaks HTTP, by httpx.
"""
