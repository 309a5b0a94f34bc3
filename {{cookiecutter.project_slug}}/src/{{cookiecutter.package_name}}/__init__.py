"""{{ cookiecutter.project_name }}: a trained model in production, by API and by batch."""
