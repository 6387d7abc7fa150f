#!lua flags=allow-oom
-- Requeue all that an owner has claimed.
-- @include requeue
-- KEYS: none
-- ARGV: 1 owner, 2 deliveries until a task is a dead letter, 3 seconds to keep a result
-- Answer: none

local claims = redis.call('HGETALL', OWNERS)
for i = 1, #claims, 2 do
    if claims[i + 1] == ARGV[1] then
        requeue(claims[i], false, tonumber(ARGV[2]), ARGV[3])
    end
end
announce_completions()
