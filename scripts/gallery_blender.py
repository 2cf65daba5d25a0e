"""A frame of a BVH file as Blender sees it: gallery_blender.py FILE.bvh FRAME OUT.jpg, in a Python that has bpy."""

import sys

import bpy
from mathutils import Vector

path, frame, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_anim.bvh(filepath=path, axis_forward="-Z", axis_up="Y")
armature = next(thing for thing in bpy.context.scene.objects if thing.type == "ARMATURE")
scene = bpy.context.scene
scene.frame_set(frame)


def material(name, colour, roughness=0.55):
    made = bpy.data.materials.new(name)
    made.use_nodes = True
    shader = made.node_tree.nodes["Principled BSDF"]
    shader.inputs["Base Color"].default_value = (*colour, 1)
    shader.inputs["Roughness"].default_value = roughness
    return made


right, left, floor = material("right", (0.83, 0.1, 0.02)), material("left", (0.75, 0.77, 0.8)), material("floor", (0.035, 0.04, 0.05), 0.9)


def stick(start, end, radius, paint):
    along = end - start
    if along.length < 1e-3:
        return
    bpy.ops.mesh.primitive_cone_add(vertices=24, radius1=radius, radius2=radius * 0.75, depth=along.length, location=(start + end) / 2)
    cone = bpy.context.object
    cone.rotation_mode = "QUATERNION"
    cone.rotation_quaternion = along.to_track_quat("Z", "Y")
    cone.data.materials.append(paint)
    for place in (start, end):
        bpy.ops.mesh.primitive_uv_sphere_add(segments=24, ring_count=12, radius=radius * 1.15, location=place)
        bpy.context.object.data.materials.append(paint)


places = []
for bone in armature.pose.bones:
    start, end = (armature.matrix_world @ point for point in (bone.head, bone.tail))
    places += [start, end]
    stick(start, end, 0.034, left if bone.name.startswith("L") and not bone.name.startswith("Lower") else right)

low, high = (Vector(bound(place[k] for place in places) for k in range(3)) for bound in (min, max))
centre = (low + high) / 2
bpy.ops.mesh.primitive_plane_add(size=60, location=(centre.x, centre.y, low.z - 0.03))
bpy.context.object.data.materials.append(floor)
bpy.ops.object.light_add(type="AREA", location=centre + Vector((2.5, -2.5, 3.5)))
lamp = bpy.context.object
lamp.data.energy, lamp.data.size = 420, 2.5
lamp.rotation_euler = (centre - lamp.location).to_track_quat("-Z", "Y").to_euler()
world = bpy.data.worlds.new("world")
world.use_nodes = True
world.node_tree.nodes["Background"].inputs["Color"].default_value = (0.09, 0.1, 0.12, 1)
scene.world = world
bpy.ops.object.camera_add(location=centre + Vector((2.3, -4.4, 1.1)))
camera = bpy.context.object
camera.data.lens = 52
camera.rotation_euler = (centre - camera.location).to_track_quat("-Z", "Y").to_euler()
scene.camera = camera
scene.render.engine = "CYCLES"
scene.cycles.device, scene.cycles.samples, scene.cycles.use_denoising = "CPU", 48, False
scene.render.resolution_x, scene.render.resolution_y = 960, 640
scene.render.image_settings.file_format, scene.render.image_settings.quality = "JPEG", 82
scene.render.filepath = out
bpy.ops.render.render(write_still=True)
