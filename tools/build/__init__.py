"""What writes shipped files: workflows, locales, help pages, tables of settings."""
