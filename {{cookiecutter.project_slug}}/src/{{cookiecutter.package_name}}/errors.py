"""The one kind of error that people see."""


class ProjectError(Exception):
    """Something that the person at the keyboard can mend.

    The message is one sentence that says what is wrong and what to do. The command line prints it
    without a traceback and ends with status 1; the service answers with a problem document.
    """
