"""Advice from past verdicts: the policies that would allow what was seen, which policies are used, and what a change of
policies would change."""
