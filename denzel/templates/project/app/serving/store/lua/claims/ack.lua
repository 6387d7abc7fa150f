#!lua flags=allow-oom
-- Acknowledge the message of a task that has ended, if this owner still has it.
-- @include completion
-- KEYS: none
-- ARGV: 1 owner, 2 delivery tag
-- Answer: none

if redis.call('HGET', OWNERS, ARGV[2]) == ARGV[1] then
    release_claims({ARGV[2]})
end
