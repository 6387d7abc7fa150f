#!lua flags=allow-oom
-- End a task as REVOKED unless it has ended. A waiting task's message stays in the queue, and is dropped at its turn.
-- @include completion
-- KEYS: none
-- ARGV: 1 task id, 2 result (JSON), 3 seconds to keep it
-- Answer: the task's status by now; false when there is no such task

local status = redis.call('HGET', TASK .. ARGV[1], 'status')
if status == 'PENDING' or status == 'STARTED' or status == 'RETRY' then
    complete_tasks({ARGV[1], 'REVOKED', ARGV[2]}, 1, ARGV[3])
    announce_completions()
    return 'REVOKED'
end
return status
