"""The holder: the program in a container of its own that holds one fault on one container until its end.

It runs from the image ``cairn-faults`` with the standard library only, in the network namespace, the control group or
on the volume of the container that is hit. Its container's environment and labels are the fault's durable record.

=================================== ===============================================================
``python -m services.chaos.holder``
``hold``                            undo leftovers, apply, print ``ready``, wait, undo, verify
``undo``                            undo and verify, nothing else
``crash PID CONTAINER``             kill the main process of a container from the host
``probe``                           print, as JSON, what this kernel cannot do
=================================== ===============================================================
"""
