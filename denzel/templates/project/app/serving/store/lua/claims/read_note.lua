#!lua flags=allow-oom
-- Read which tasks a polling process claimed last. One that has ended is there without its message.
-- @include messages
-- KEYS: 1 the note of the polling process
-- ARGV: 1 poll session
-- Answer: {round, {task id, message or '', waiting since} of each}; {0, {}} for another session's note

local session, round, ids, waited = unpack(cjson.decode(redis.call('GET', KEYS[1]) or '[]'))
if session ~= tonumber(ARGV[1]) then
    return {0, {}}
end
local tasks = {}
for i, task_id in ipairs(ids) do
    local text = redis.call('HGET', UNACKED, task_id)
    tasks[i] = {task_id, text and message_of(text) or '', waited[i]}
end
return {round, tasks}
