"""The role `web`: a page that shows verdicts as they arrive, for people who look with a browser.

``role`` puts it together. ``views`` names the views, ``app`` serves them, and each has a module that answers its
requests (``flows``, ``map``, ``health``) by means of ``answers``. ``guard`` refuses the requests of foreign pages,
``viewers`` knows who may see what, ``feed`` follows the topic of flows for all who look, and ``past`` asks what the
commands ask.
"""
