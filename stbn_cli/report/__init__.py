"""Report pages: tables, plots and before/after pictures as one HTML file that loads nothing from anywhere."""
