-- The end of tasks: result, callback and the claim of the owner change together. The first end of a task stands: a
-- repeated run neither changes its result nor schedules a second callback. `announce_completions` publishes all ends
-- of one script at once; and those for which requests wait on the channel of their process of the api, with results.
-- @include common
-- @include schedule
-- @include reports
-- @include run_times

local MAX_ANNOUNCED = 64 * 1024
local completions, awaited = {}, {}

local function announce_completions()
    if #completions > 0 then
        redis.call('PUBLISH', COMPLETIONS, cjson.encode(completions))
    end
    for channel, ends in pairs(awaited) do
        redis.call('PUBLISH', channel, cjson.encode(ends))
    end
end

local function release_claims(ids)
    in_bulk('HDEL', UNACKED, ids)
    in_bulk('HDEL', OWNERS, ids)
end

local function complete_task(task_id, status, result, time, ended, ttl, endpoints)
    local task = TASK .. task_id
    local before = redis.call('HMGET', task, 'result', 'callback_uri', 'receiver', 'idempotency', 'awaited', 'followed',
        'outputs', 'started')
    if before[1] then
        return
    end
    if before[2] then
        redis.call('HSET', task, 'status', status, 'result', result, 'ended', ended, 'callback', 'PENDING')
        enqueue_callback(task_id, before[3], time)
        endpoints[before[3]] = true
    else
        redis.call('HSET', task, 'status', status, 'result', result, 'ended', ended)
        expire(task, before[4], ttl)
    end
    completions[#completions + 1] = task_id
    local channel = before[5]
    if channel then
        local ends = awaited[channel] or {}
        ends[#ends + 1] = #result <= MAX_ANNOUNCED and {task_id, status, result} or {task_id}
        awaited[channel] = ends
    end
    announce_change(task_id, before[6])
    if before[7] then
        redis.call('EXPIRE', OUTPUT .. task_id, ttl)
    end
    if before[8] and status ~= 'REVOKED' then
        count_run(before[8])
    end
end

-- `flat` holds, from index `first` on, the id, status and result of each task, one after the other.
local function complete_tasks(flat, first, ttl)
    local time, ids, endpoints = now(), {}, {}
    local ended = stamp(time)
    for i = first, #flat, 3 do
        ids[#ids + 1] = flat[i]
        complete_task(flat[i], flat[i + 1], flat[i + 2], time, ended, ttl, endpoints)
    end
    store_run_times(time)
    release_claims(ids)
    in_bulk('ZREM', WAITING, ids)
    for endpoint in pairs(endpoints) do
        notify_sender(endpoint, time)
    end
end
