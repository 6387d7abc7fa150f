-- Store what running tasks have reported: the latest progress, and output, of which the latest is kept. A report of a
-- delivery that has passed to another owner is void. A repeated call, after a connection broke before its answer,
-- changes nothing. Without flags, so that Redis refuses it at its memory limit.
-- @include reports
-- KEYS: none
-- ARGV: 1 owner and epoch, 2 and 3 limits of the outputs that are kept of a task, in number and bytes, then for each
--       task its id, progress (JSON) or '', the number of outputs before these, how many these are, and each (JSON)
-- Answer: none

local holder, max_outputs, max_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local function store_outputs(task_id, record, before, first, count)
    local list = OUTPUT .. task_id
    local total, from, bytes = tonumber(record[3] or 0), tonumber(record[4] or 0), tonumber(record[5] or 0)
    if before > total then
        -- Those in between were refused, or were too long to be kept.
        redis.call('DEL', list)
        total, from, bytes = before, before, 0
    end
    for i = first + total - before, first + count - 1 do
        redis.call('RPUSH', list, ARGV[i])
        total, bytes = total + 1, bytes + #ARGV[i]
    end
    while total - from > max_outputs or bytes > max_bytes do
        bytes, from = bytes - #redis.call('LPOP', list), from + 1
    end
    redis.call('HSET', TASK .. task_id, 'outputs', total, 'outputs_from', from, 'output_bytes', bytes)
end

local function store_report(task_id, progress, before, first, count)
    local task = TASK .. task_id
    local record = redis.call('HMGET', task, 'status', 'followed', 'outputs', 'outputs_from', 'output_bytes')
    if record[1] ~= 'STARTED' or redis.call('HGET', OWNERS, task_id) ~= holder then
        return
    end
    if progress ~= '' then
        redis.call('HSET', task, 'progress', progress)
        redis.call('HINCRBY', task, 'reports', 1)
    end
    if count > 0 or before > tonumber(record[3] or 0) then
        store_outputs(task_id, record, before, first, count)
    end
    announce_change(task_id, record[2])
end

local i = 4
while i <= #ARGV do
    local count = tonumber(ARGV[i + 3])
    store_report(ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), i + 4, count)
    i = i + 4 + count
end
