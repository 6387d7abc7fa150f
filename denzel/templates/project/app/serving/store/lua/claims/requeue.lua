#!lua flags=allow-oom
-- Requeue some claimed messages. One whose claim has passed to another owner meanwhile is left alone.
-- @include requeue
-- @include owners
-- KEYS: none
-- ARGV: 1 owner, 2 deliveries until a task is a dead letter, 3 seconds to keep a result, then for each message its
--       task id and 'died' when its process died, or ''
-- Answer: {id, reason, ...} of tasks that became dead letters

local ids, died = {}, {}
for i = 4, #ARGV, 2 do
    if owner_of(redis.call('HGET', OWNERS, ARGV[i]) or '') == ARGV[1] then
        ids[#ids + 1], died[ARGV[i]] = ARGV[i], ARGV[i + 1] == 'died'
    end
end
requeue_in_order(ids, died, tonumber(ARGV[2]), ARGV[3])
announce_completions()
return dead_lettered
