#!lua flags=allow-oom
-- Store how tasks ended.
-- @include completion
-- KEYS: none
-- ARGV: 1 seconds to keep a result, then for each task its id, status and result (JSON)
-- Answer: none

complete_tasks(ARGV, 2, ARGV[1])
announce_completions()
