#!lua flags=allow-oom
-- Lease callbacks that are due to a sender. The free places are shared: the fewer there are, the fewer an endpoint
-- may take, so that some that hang leave places to all others. An endpoint that is down is tried by a few callbacks
-- at a time: it may be some of its paths that hang, and not all. Results are counted in bytes too. A lease that ends
-- later than one that begins now was given before the clock was set back, and is void.
-- @include common
-- @include endpoints
-- KEYS: none
-- ARGV: 1 free places, 2 places for each endpoint, 3 lease in seconds, 4 limit of callbacks, 5 limit of bytes, 6
--       callbacks in flight by endpoint, as JSON
-- Answer: {seconds until the next is due or '', {task id, endpoint, uri, status, result, attempts, seconds since the
--         first attempt, replays} of each}

local ROOM_WHEN_DOWN = 4
local free, per_endpoint, lease, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local free_bytes, busy = tonumber(ARGV[5]), cjson.decode(ARGV[6])
local at = now()

local function end_lease(task_id)
    local record = redis.call('HMGET', TASK .. task_id, 'receiver', 'callback')
    if record[1] and record[2] == 'PENDING' then
        requeue_callback(task_id, record[1], at)
    else
        redis.call('ZREM', SENDING, task_id)
    end
end

for _, task_id in ipairs(redis.call('ZRANGEBYSCORE', SENDING, '-inf', at, 'LIMIT', 0, limit)) do
    end_lease(task_id)
end
local latest = string.format('(%.6f', at + 2 * lease)
for _, task_id in ipairs(redis.call('ZRANGEBYSCORE', SENDING, latest, '+inf', 'LIMIT', 0, limit)) do
    end_lease(task_id)
end

local taken = {}
local function take(task_id, endpoint)
    local task = TASK .. task_id
    local record = redis.call('HMGET', task, 'callback_uri', 'status', 'result', 'callback_attempts', 'replays',
        'callback_first')
    if not record[1] or not record[3] then
        redis.call('ZREM', UNDELIVERED, task_id)
        return 0
    end
    if not record[6] then
        redis.call('HSET', task, 'callback_first', at)
    end
    taken[#taken + 1] = {task_id, endpoint, record[1], record[2], record[3], record[4] or '0',
        string.format('%.6f', at - tonumber(record[6] or at)), record[5] or '0'}
    free_bytes = free_bytes - #record[3]
    return 1
end

for _, endpoint in ipairs(redis.call('ZRANGEBYSCORE', ENDPOINTS, '-inf', at)) do
    if free <= 0 or free_bytes <= 0 or #taken >= limit then
        break
    end
    local room = math.min(per_endpoint, math.max(1, math.floor(free / per_endpoint)))
    if redis.call('SISMEMBER', ENDPOINTS_DOWN, endpoint) == 1 then
        room = math.min(room, ROOM_WHEN_DOWN)
    end
    room = math.min(room - (busy[endpoint] or 0), free, limit - #taken)
    if room > 0 then
        local before, seen, leases = #taken, {}, {}
        for _, task_id in ipairs(redis.call('ZRANGEBYSCORE', CALLBACKS .. endpoint, '-inf', at, 'LIMIT', 0, room)) do
            if free_bytes <= 0 then
                break
            end
            seen[#seen + 1] = task_id
            free = free - take(task_id, endpoint)
        end
        for i = before + 1, #taken do
            leases[#leases + 1], leases[#leases + 2] = at + lease, taken[i][1]
        end
        in_bulk('ZREM', CALLBACKS .. endpoint, seen)
        in_bulk('ZADD', SENDING, leases)
        update_next_due(endpoint, #taken > before)
    end
end

local later = redis.call('ZRANGEBYSCORE', ENDPOINTS, '(' .. string.format('%.6f', at), '+inf', 'WITHSCORES',
    'LIMIT', 0, 1)
return {later[2] and string.format('%.6f', later[2] - at) or '', taken}
