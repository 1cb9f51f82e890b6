"""What people and programs see of a job: status routes, the page, the element, and event streams."""
