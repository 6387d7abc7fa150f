#!lua flags=allow-oom
-- End a claimed message as a dead letter, as it is no task that a process here could run.
-- @include completion
-- @include dead_letter
-- @include messages
-- @include owners
-- KEYS: none
-- ARGV: 1 owner, 2 task id, 3 reason, 4 seconds to keep a result
-- Answer: none

local task_id, reason = ARGV[2], ARGV[3]
if owner_of(redis.call('HGET', OWNERS, task_id) or '') ~= ARGV[1] then
    return
end
local message = message_of(redis.call('HGET', UNACKED, task_id))
dead_letter(task_id, message, tonumber(redis.call('HGET', TASK .. task_id, 'deliveries')), reason)
complete_tasks({task_id, 'FAILURE', failure('ForeignMessage', reason)}, 1, ARGV[4])
announce_completions()
