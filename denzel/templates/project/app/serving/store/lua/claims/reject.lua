#!lua flags=allow-oom
-- End a claimed message as a dead letter, as it is no task that a process here could run.
-- @include completion
-- @include dead_letter
-- @include messages
-- KEYS: none
-- ARGV: 1 owner, 2 delivery tag, 3 reason, 4 seconds to keep a result
-- Answer: none

local tag, reason = ARGV[2], ARGV[3]
if redis.call('HGET', OWNERS, tag) ~= ARGV[1] then
    return
end
local message = message_of(redis.call('HGET', UNACKED, tag))
local task_id = task_of(message)
dead_letter(task_id, message, tonumber(redis.call('HGET', TASK .. task_id, 'deliveries')), reason)
complete_tasks({task_id, tag, 'FAILURE', cjson.encode({args = {reason}})}, 1, ARGV[4])
announce_completions()
