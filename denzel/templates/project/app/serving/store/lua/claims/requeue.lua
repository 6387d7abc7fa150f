#!lua flags=allow-oom
-- Requeue some claimed messages. One whose claim has passed to another owner meanwhile is left alone.
-- @include requeue
-- KEYS: none
-- ARGV: 1 owner, 2 deliveries until a task is a dead letter, 3 seconds to keep a result, then for each message its
--       delivery tag and 'died' when its process died, or ''
-- Answer: {id, reason, ...} of tasks that became dead letters

local owner, max_deliveries, ttl = ARGV[1], tonumber(ARGV[2]), ARGV[3]
-- From the last to the first: each goes to the head of the queue, so the order stays.
for i = #ARGV - 1, 4, -2 do
    if redis.call('HGET', OWNERS, ARGV[i]) == owner then
        requeue(ARGV[i], ARGV[i + 1] == 'died', max_deliveries, ttl)
    end
end
announce_completions()
return dead_lettered
