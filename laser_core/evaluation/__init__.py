"""What is measured against true boxes and answers. Nothing else imports it but the command line."""
