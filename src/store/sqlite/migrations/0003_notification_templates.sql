-- What users can be notified of by what agents report. Ids, names, groups and kinds are the original's, where existing
-- preferences and tools look for them; the texts are our own. `{{base_url}}` is the access URL.

INSERT INTO notification_templates (id, name, title_template, body_template, actions, "group", kind, enabled_by_default)
VALUES
    (
        x'a9d027b4ac494fb19f6d45af15f64e7a', 'Workspace Out Of Memory',
        'Memory is running out in {{.Labels.workspace}}',
        'The workspace **{{.Labels.workspace}}** has used {{.Labels.threshold}} or more of its memory for some time.',
        '[{"label":"Open workspace","url":"{{base_url}}/@{{.UserUsername}}/{{.Labels.workspace}}"}]',
        'Workspace Events', 'system', 1
    ),
    (
        x'f047f6a3571340f785aa0394cce9fa3a', 'Workspace Out Of Disk',
        'Disk space is running out in {{.Labels.workspace}}',
        'Volumes of the workspace **{{.Labels.workspace}}** are filled beyond their limit: '
            || '{{range .Data.volumes}}`{{.path}}` ({{.threshold}}) {{end}}',
        '[{"label":"Open workspace","url":"{{base_url}}/@{{.UserUsername}}/{{.Labels.workspace}}"}]',
        'Workspace Events', 'system', 1
    ),
    (
        x'bd4b7168d05e4e19ad0f3593b77aa90f', 'Task Working',
        '{{.Labels.task}} is being worked on',
        'Work on the task **{{.Labels.task}}** goes on in the workspace **{{.Labels.workspace}}**.',
        '[{"label":"Open task","url":"{{base_url}}/tasks/{{.UserUsername}}/{{.Labels.workspace}}"},'
            || '{"label":"Open workspace","url":"{{base_url}}/@{{.UserUsername}}/{{.Labels.workspace}}"}]',
        'Task Events', 'system', 1
    ),
    (
        x'd4a6271ccced4ed084adafd02a9c7799', 'Task Idle',
        '{{.Labels.task}} waits for you',
        'The task **{{.Labels.task}}** in the workspace **{{.Labels.workspace}}** waits for input.',
        '[{"label":"Open task","url":"{{base_url}}/tasks/{{.UserUsername}}/{{.Labels.workspace}}"},'
            || '{"label":"Open workspace","url":"{{base_url}}/@{{.UserUsername}}/{{.Labels.workspace}}"}]',
        'Task Events', 'system', 1
    ),
    (
        x'8c5a4d129f7e4b3aa1c86e4f2d9b5a7c', 'Task Completed',
        '{{.Labels.task}} is done',
        'The task **{{.Labels.task}}** in the workspace **{{.Labels.workspace}}** came to its end.',
        '[{"label":"Open task","url":"{{base_url}}/tasks/{{.UserUsername}}/{{.Labels.workspace}}"},'
            || '{"label":"Open workspace","url":"{{base_url}}/@{{.UserUsername}}/{{.Labels.workspace}}"}]',
        'Task Events', 'system', 1
    ),
    (
        x'3b7e8f1a4c2d49a6b5e97f3a1c8d6b4e', 'Task Failed',
        '{{.Labels.task}} did not succeed',
        'The task **{{.Labels.task}}** in the workspace **{{.Labels.workspace}}** ended with a failure; its log says why.',
        '[{"label":"Open task","url":"{{base_url}}/tasks/{{.UserUsername}}/{{.Labels.workspace}}"},'
            || '{"label":"Open workspace","url":"{{base_url}}/@{{.UserUsername}}/{{.Labels.workspace}}"}]',
        'Task Events', 'system', 1
    );
