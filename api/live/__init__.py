"""What follows a running job: answers from memory, long polls, server-sent events."""
